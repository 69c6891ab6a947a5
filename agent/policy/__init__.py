"""Messages in, tokens out: the policy under replay."""
