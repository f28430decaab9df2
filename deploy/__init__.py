"""The manifests for Kubernetes (`k8s/`), and what checks them and makes their Secrets."""
