"""What course.py is made of; no part of the library."""
