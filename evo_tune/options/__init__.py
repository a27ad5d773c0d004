"""How options are declared, bounded, read and bound; a leaf, so that the training recipe may declare its own."""
