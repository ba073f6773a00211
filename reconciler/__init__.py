"""SSH tunnels as a file asks for them: compare with what is live, act until the two agree, keep them agreeing."""

__version__ = "0.1.0"
