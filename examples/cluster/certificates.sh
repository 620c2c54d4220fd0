#!/bin/bash
# Makes certificates for a Dask cluster, and the settings that name them:
#
#     certificates.sh /shared/tls
#     export DASK_CONFIG=/shared/tls/dask.yaml     # wherever scheduler, workers and segpipe run
#     dask scheduler --protocol tls
#
# Whoever can read the folder can run code on the cluster; the key of the authority isn't kept.
set -euo pipefail
umask 077

mkdir -p "$1"
cd "$1"
openssl req -x509 -newkey rsa:3072 -nodes -days 365 -subj /CN=segpipe-authority \
    -keyout authority.key -out authority.pem
openssl req -newkey rsa:3072 -nodes -subj /CN=segpipe -keyout key.pem -out request.pem
openssl x509 -req -in request.pem -days 365 -CA authority.pem -CAkey authority.key \
    -CAcreateserial -out certificate.pem
rm authority.key authority.srl request.pem

cat > dask.yaml <<SETTINGS
distributed:
  comm:
    require-encryption: true
    tls:
      ca-file: $PWD/authority.pem
      scheduler: {cert: $PWD/certificate.pem, key: $PWD/key.pem}
      worker: {cert: $PWD/certificate.pem, key: $PWD/key.pem}
      client: {cert: $PWD/certificate.pem, key: $PWD/key.pem}
SETTINGS
