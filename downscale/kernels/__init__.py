"""What a kernel is: Sobolev weights, sum-to-one laws, polyphase components."""
