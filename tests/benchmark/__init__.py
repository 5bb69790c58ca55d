"""What a gate costs, beside what people would use instead: ``python -m tests.benchmark``."""
