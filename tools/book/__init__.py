"""The book: a static site made from the chapters' kept outputs and the library."""
