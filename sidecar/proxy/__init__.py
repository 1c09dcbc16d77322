"""The data path: from an accepted connection to the private tool and back."""
