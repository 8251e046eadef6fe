"""BERT checkpoints, and verbs that change a model in place: narrow, ternarize, split, binarize."""
