"""What draws: figures, posters, plots and tables that know nothing of models."""
