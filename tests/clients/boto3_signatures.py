"""A database that wants signatures, through boto3. Arguments: the endpoints of the nodes; a key in AWS_ACCESS_KEY_ID."""

import os
import sys
import time

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from expect import refused

ENDPOINTS = [f"http://{address}" for address in sys.argv[1:]]
KEY, SECRET = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]


def client(number=0, key=KEY, secret=SECRET, service="dynamodb", **config):
    return boto3.client(
        service,
        endpoint_url=ENDPOINTS[number % len(ENDPOINTS)],
        region_name="eu-central-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(retries={"max_attempts": 1}, **config),
    )


# Another node may not know of the key yet.
end = time.monotonic() + 30
for number in range(len(ENDPOINTS)):
    while True:
        try:
            client(number).list_tables()
            break
        except ClientError as error:
            assert error.response["Error"]["Code"] == "UnrecognizedClientException" and time.monotonic() < end, error

client().create_table(
    TableName="signed",
    BillingMode="PAY_PER_REQUEST",
    AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
)
for number in range(3):
    item = {"id": {"S": f"Zürich – {number}"}, "large": {"S": "x" * 100_000}}
    client(number).put_item(TableName="signed", Item=item)
    assert client(number + 1).get_item(TableName="signed", Key={"id": item["id"]})["Item"] == item
assert client(service="dynamodbstreams").list_streams()["Streams"] == []

refused("InvalidSignatureException", lambda: client(secret=SECRET[:-1] + "_").list_tables())
refused("UnrecognizedClientException", lambda: client(key="TMRNAAAAAAAAAAAAAAAA").list_tables())
refused("MissingAuthenticationTokenException", lambda: client(signature_version=UNSIGNED).list_tables())
print("signatures: fine")
