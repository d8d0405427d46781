"""Commands that copy, restore and look at what an agent knows."""
