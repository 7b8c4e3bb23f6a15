"""What clients speak: each dialect parses requests, writes answers and writes errors, without logic of its own."""
