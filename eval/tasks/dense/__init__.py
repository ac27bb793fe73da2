"""What dense tasks share: feature maps at any resolution, sliding windows, scenes whose answers are known."""
