"""What the doors give: camelCase JSON. An optional field that has no value is left out."""
