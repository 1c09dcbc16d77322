"""What may reach what: the policy file, its checks, and the decision. Pure."""
