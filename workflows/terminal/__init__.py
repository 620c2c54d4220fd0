"""What all commands share: options, texts, progress."""
