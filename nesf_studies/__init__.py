"""Studies of the book: numbers, figure and table of one topic a file. Builds on `nesf`; `nesf` never imports it."""
