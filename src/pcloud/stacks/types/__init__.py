"""Resource types: one small class each with a schema; `registry` finds them by name and knows which are refused, and why."""
