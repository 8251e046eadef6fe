"""What a quantized BERT computes, and what it costs: functions, layers, and whole models."""
