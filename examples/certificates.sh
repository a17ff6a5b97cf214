#!/bin/sh
# Makes what mutual TLS between devices and a broker needs:
#
#   sh certificates.sh FOLDER BROKER DEVICE...
#   sh certificates.sh certs broker.plant.local pump-1 pump-2 tocsin
#
# FOLDER/ca.pem, ca.key           a certificate authority of your own; keep ca.key away from the broker and the devices
# FOLDER/server.pem, server.key   the broker's certificate, for the host name or IP address BROKER, and for localhost
# FOLDER/DEVICE.pem, DEVICE.key   one for each device; its common name (CN) is the device's id, which the broker
#                                 takes as the user's name, so that its ACL can keep devices to their own topics
#
# Run it again with further devices: what exists is kept. Certificates are valid for a year (the CA for ten); to renew
# one, delete its .pem file and run this again. Needs openssl 1.1.1 or newer.
set -eu
umask 077

if [ $# -lt 3 ]; then
    echo "usage: sh $0 FOLDER BROKER DEVICE..." >&2
    exit 2
fi
folder=$1
broker=$2
shift 2
mkdir -p "$folder"
cd "$folder"

new_key() {
    [ -f "$1.key" ] || openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
}

# sign NAME PURPOSE [ALTERNATIVE NAMES]
sign() {
    new_key "$1"
    [ -f "$1.pem" ] && return
    {
        echo "basicConstraints=critical,CA:FALSE"
        echo "keyUsage=critical,digitalSignature"
        echo "extendedKeyUsage=$2"
        echo "subjectKeyIdentifier=hash"
        echo "authorityKeyIdentifier=keyid"
        [ -z "${3:-}" ] || echo "subjectAltName=$3"
    } > "$1.ext"
    openssl req -new -key "$1.key" -subj "/CN=$1" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" \
        -days 365 -sha256 -extfile "$1.ext" -out "$1.pem" 2> /dev/null
    rm "$1.csr" "$1.ext"
    echo "made $folder/$1.pem"
}

for device in "$@"; do
    case $device in
        *[!A-Za-z0-9._-]* | "" | .* | ca | server)
            echo "'$device' cannot be a device's id: use letters, digits, '.', '_' and '-'" >&2
            exit 2
            ;;
    esac
done

new_key ca
if [ ! -f ca.pem ]; then
    openssl req -x509 -new -key ca.key -subj "/CN=tocsin plant CA" -days 3650 -sha256 \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" -out ca.pem
    echo "made $folder/ca.pem"
fi

case $broker in
    *[!0-9.]*) name="DNS:$broker" ;;
    *) name="IP:$broker" ;;
esac
sign server serverAuth "$name,DNS:localhost,IP:127.0.0.1"
for device in "$@"; do
    sign "$device" clientAuth
done
