"""What networks trained on ImageNet share: ResNets, their colours, and LPIPS."""
