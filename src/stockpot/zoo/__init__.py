"""The zoo: a small family of real, trained checkpoints, and the world that they draw."""
