"""What all commands share: where an agent is, what is shown, how it ends."""
