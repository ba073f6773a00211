"""One module for each measurement. Each has `measure(lab)`, which records its figures in the laboratory."""
