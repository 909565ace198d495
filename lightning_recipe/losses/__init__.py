"""What a loss is: its family, what it wants, what it could be at best, and how it reads predictions and targets."""
