"""What is trained beside a pre-trained model, as numbers: its base, targets and memory."""
