"""Interactive charts of finished runs, as plotly figures: in a report, and in notebooks."""
