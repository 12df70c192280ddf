"""The pocket Wan: an honest miniature of Wan2.2-I2V-A14B that runs on two CPU cores."""

from musubi_ext.pocket.config import pipeline_path, random_pipeline

__all__ = ["pipeline_path", "random_pipeline"]
