"""What a run shows during and after training: events, tables, charts, pages. No Ray here."""
