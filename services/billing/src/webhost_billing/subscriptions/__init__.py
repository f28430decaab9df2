"""What users pay for: their subscriptions at the payment provider, and the tiers these give."""
