"""Training models that think: CODI self-distillation with step supervision, on the transformers Trainer."""
