"""The main job as a demonstration: from an empty machine to a WordPress that heals itself."""
