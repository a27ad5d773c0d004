"""Declaration, checking and conversion of options. The training recipe may import it, so it imports only errors."""
