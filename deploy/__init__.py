"""The manifests for Kubernetes (`k8s/`), and what checks and generates them."""
