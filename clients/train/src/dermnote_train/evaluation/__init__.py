"""What a trained model is worth: metrics, bootstrap intervals and subgroups."""
