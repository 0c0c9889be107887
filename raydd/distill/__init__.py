"""The distillation engine: heads, experts, blending, matching, the loop. `raydd.distill.methods` names the methods."""
