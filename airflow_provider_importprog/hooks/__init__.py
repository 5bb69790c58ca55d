"""The hooks of this provider."""
