"""From registry and route to what the data plane runs. Pure: values in, values out."""
