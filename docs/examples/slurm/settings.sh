source .venv/bin/activate
export DASK_DISTRIBUTED__COMM__TLS__CA_FILE=$PWD/cert.pem    # as in "Who may connect"
for role in CLIENT SCHEDULER WORKER; do
    export DASK_DISTRIBUTED__COMM__TLS__${role}__CERT=$PWD/cert.pem DASK_DISTRIBUTED__COMM__TLS__${role}__KEY=$PWD/key.pem
done
