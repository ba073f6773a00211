"""What the program adds to the event loop: cheaper ways to watch descriptors, and one timer for many items."""
