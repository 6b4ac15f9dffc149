"""What staff of a course need: assignments with their grading, and the program that makes and grades them."""
