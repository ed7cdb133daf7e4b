"""Data sets: their file formats, subsets and augmentation."""
