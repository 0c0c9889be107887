"""The distillation engine: heads, experts, students, blending, matching loss, loop. `methods` holds the methods."""
