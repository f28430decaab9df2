"""Archives that anybody may have made."""
