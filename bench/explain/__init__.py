"""Arrays in, figures out: explanation panels, galleries of prototypes, ROC and confusion plots (docs/explanations.md)."""
