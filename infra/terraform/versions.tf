terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100, < 6.0" # 6 moves the region into every resource; these modules were applied with 5.100
    }
  }

  backend "s3" {
    key          = "bentoflow.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { project = "bentoflow", environment = var.environment }
  }
}
