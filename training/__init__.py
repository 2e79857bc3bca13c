"""The learner: feedback, self-play, losses, adapters and models. Knows nothing of the network."""
