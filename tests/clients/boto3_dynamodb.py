"""The DynamoDB API through boto3, its resource and its client, and the AWS CLI, as their users write it.

Arguments: the endpoints of the nodes. Whatever was written through one is there through the others.
"""

import datetime
import decimal
import json
import os
import subprocess
import sys
import threading
import time
import uuid

import boto3
from boto3.dynamodb.conditions import Attr, Key
from botocore.config import Config
from botocore.exceptions import ClientError

from expect import eventually, refused

ENDPOINTS = [f"http://{address}" for address in sys.argv[1:]]
ACCESS = dict(region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret")


def connect(kind, number, service="dynamodb"):
    config = Config(retries={"max_attempts": 5, "mode": "standard"})
    return getattr(boto3, kind)(service, endpoint_url=ENDPOINTS[number % len(ENDPOINTS)], config=config, **ACCESS)


def orders():
    """A table with both kinds of indexes, as an application has it."""
    name = "orders"
    table = connect("resource", 0).create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[
            {"AttributeName": "customer", "AttributeType": "S"},
            {"AttributeName": "number", "AttributeType": "N"},
            {"AttributeName": "day", "AttributeType": "S"},
            {"AttributeName": "state", "AttributeType": "S"},
        ],
        KeySchema=[
            {"AttributeName": "customer", "KeyType": "HASH"},
            {"AttributeName": "number", "KeyType": "RANGE"},
        ],
        LocalSecondaryIndexes=[
            {
                "IndexName": "by-day",
                "KeySchema": [
                    {"AttributeName": "customer", "KeyType": "HASH"},
                    {"AttributeName": "day", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
        ],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "by-state",
                "KeySchema": [
                    {"AttributeName": "state", "KeyType": "HASH"},
                    {"AttributeName": "day", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["total"]},
            }
        ],
        Tags=[{"Key": "team", "Value": "shop"}],
    )
    table.wait_until_exists()
    assert [index["IndexStatus"] for index in connect("resource", 1).Table(name).global_secondary_indexes] == ["ACTIVE"]

    with table.batch_writer() as batch:
        for number in range(60):
            batch.put_item(
                Item={
                    "customer": f"c{number % 3}",
                    "number": number,
                    "day": f"2026-11-{number % 28 + 1:02}",
                    "state": "open" if number % 4 else "paid",
                    "total": decimal.Decimal(number) / 4,
                    "lines": [{"sku": "a", "n": 1}, {"sku": "b", "n": number}],
                }
            )

    other = connect("resource", 1).Table(name)
    got = other.get_item(Key={"customer": "c1", "number": 7}, ConsistentRead=True)["Item"]
    assert got["total"] == decimal.Decimal("1.75") and got["lines"][1]["n"] == 7

    # A local index has the item itself at hand.
    found = other.query(
        IndexName="by-day",
        KeyConditionExpression=Key("customer").eq("c1") & Key("day").begins_with("2026-11-0"),
        ConsistentRead=True,
        Select="ALL_ATTRIBUTES",
    )["Items"]
    assert [item["day"] for item in found] == sorted(item["day"] for item in found) and len(found) > 3
    assert all("lines" in item for item in found)

    # A global one follows.
    def open_orders(number):
        pages = connect("client", number).get_paginator("query").paginate(
            TableName=name,
            IndexName="by-state",
            KeyConditionExpression="#s = :open",
            ExpressionAttributeNames={"#s": "state"},
            ExpressionAttributeValues={":open": {"S": "open"}},
            PaginationConfig={"PageSize": 7},
        )
        return [item for page in pages for item in page["Items"]]

    eventually("the index has what is open", lambda: len(open_orders(2)) == 45)
    assert set(open_orders(0)[0]) == {"customer", "number", "day", "state", "total"}
    table.update_item(
        Key={"customer": "c1", "number": 1},
        UpdateExpression="SET #s = :paid",
        ConditionExpression=Attr("state").eq("open"),
        ExpressionAttributeNames={"#s": "state"},
        ExpressionAttributeValues={":paid": "paid"},
    )
    eventually("an entry is gone", lambda: len(open_orders(1)) == 44)
    refused(
        "ValidationException",
        lambda: other.query(IndexName="by-state", KeyConditionExpression=Key("state").eq("open"), ConsistentRead=True),
    )
    refused("ValidationException", lambda: other.put_item(Item={"customer": "c", "number": 1, "state": 5}))

    # An index that is added while the table is written to has everything.
    client = connect("client", 2)
    stop = threading.Event()

    def write():
        number = 1000
        while not stop.is_set():
            item = {"customer": {"S": "late"}, "number": {"N": str(number)}, "total": {"N": str(number % 10)}}
            client.put_item(TableName=name, Item=item)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    client.update_table(
        TableName=name,
        AttributeDefinitions=[{"AttributeName": "total", "AttributeType": "N"}],
        GlobalSecondaryIndexUpdates=[
            {
                "Create": {
                    "IndexName": "by-total",
                    "KeySchema": [{"AttributeName": "total", "KeyType": "HASH"}],
                    "Projection": {"ProjectionType": "KEYS_ONLY"},
                }
            }
        ],
    )

    def status(index):
        indexes = client.describe_table(TableName=name)["Table"].get("GlobalSecondaryIndexes", [])
        return {one["IndexName"]: one["IndexStatus"] for one in indexes}.get(index)

    eventually("the index is made", lambda: status("by-total") == "ACTIVE")
    stop.set()
    writer.join()
    count = lambda **more: sum(
        page["Count"] for page in client.get_paginator("scan").paginate(TableName=name, Select="COUNT", **more)
    )
    eventually("the index has all items", lambda: count() == count(IndexName="by-total"))
    client.update_table(TableName=name, GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": "by-total"}}])
    eventually("the index is gone", lambda: status("by-total") is None)
    refused("ValidationException", lambda: client.scan(TableName=name, IndexName="by-total"))


def transactions():
    """Money that moves, once, whoever asks how often."""
    name = "accounts"
    client = connect("client", 0)
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    client.get_waiter("table_exists").wait(TableName=name)
    for number in range(8):
        client.put_item(TableName=name, Item={"id": {"S": f"a{number}"}, "balance": {"N": "100"}})

    def transfer(number, source, target, amount, token=None):
        def change(account, by):
            return {
                "Update": {
                    "TableName": name,
                    "Key": {"id": {"S": account}},
                    "UpdateExpression": "ADD balance :by",
                    "ConditionExpression": "balance >= :least",
                    "ExpressionAttributeValues": {":by": {"N": str(by)}, ":least": {"N": str(max(-by, 0))}},
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                }
            }

        return connect("client", number).transact_write_items(
            TransactItems=[change(source, -amount), change(target, amount)],
            ClientRequestToken=token or str(uuid.uuid4()),
            ReturnConsumedCapacity="TOTAL",
        )

    token = str(uuid.uuid4())
    units = transfer(0, "a0", "a1", 30, token)["ConsumedCapacity"]
    assert units == [{"TableName": name, "CapacityUnits": 4.0, "WriteCapacityUnits": 4.0}], units
    # At other nodes, with the same token: nothing more happens, and it costs what a look costs.
    for number in (1, 2):
        units = transfer(number, "a0", "a1", 30, token)["ConsumedCapacity"]
        assert units == [{"TableName": name, "CapacityUnits": 4.0, "ReadCapacityUnits": 4.0}], units
    refused("IdempotentParameterMismatchException", lambda: transfer(1, "a0", "a1", 31, token))
    response = refused("TransactionCanceledException", lambda: transfer(2, "a0", "a2", 71))
    reasons = response["CancellationReasons"]
    assert [reason["Code"] for reason in reasons] == ["ConditionalCheckFailed", "None"], reasons
    assert reasons[0]["Item"]["balance"] == {"N": "70"}

    def some(number):
        for turn in range(40):
            try:
                transfer(turn, f"a{(number + turn) % 8}", f"a{(number * 3 + turn + 1) % 8}", turn + 1)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                assert code in ("TransactionCanceledException", "ValidationException"), error

    threads = [threading.Thread(target=some, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        gets = [{"Get": {"TableName": name, "Key": {"id": {"S": f"a{number}"}}}} for number in range(8)]
        found = connect("client", 1).transact_get_items(TransactItems=gets)["Responses"]
        assert sum(int(one["Item"]["balance"]["N"]) for one in found) == 800, found
    for thread in threads:
        thread.join()


def settings():
    """Expiry, tags, protection, capacity, and what older programs say."""
    name = "sessions"
    client = connect("client", 1)
    client.create_table(
        TableName=name,
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        ProvisionedThroughput={"ReadCapacityUnits": 5, "WriteCapacityUnits": 5},
    )
    client.get_waiter("table_exists").wait(TableName=name)
    client.update_time_to_live(
        TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "until"}
    )
    described = connect("client", 2).describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    assert described == {"TimeToLiveStatus": "ENABLED", "AttributeName": "until"}
    now = int(datetime.datetime.now().timestamp())
    for name_, until in (("gone", now - 5), ("there", now + 3600), ("ancient", now - 6 * 365 * 86400)):
        client.put_item(TableName=name, Item={"id": {"S": name_}, "until": {"N": str(until)}})
    ids = lambda: {item["id"]["S"] for item in client.scan(TableName=name)["Items"]}
    eventually("what has expired is gone", lambda: ids() == {"there", "ancient"})

    arn = client.describe_table(TableName=name)["Table"]["TableArn"]
    client.tag_resource(ResourceArn=arn, Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])
    client.untag_resource(ResourceArn=arn, TagKeys=["a"])
    assert client.list_tags_of_resource(ResourceArn=arn)["Tags"] == [{"Key": "b", "Value": "2"}]

    assert client.describe_endpoints()["Endpoints"][0]["Address"] in ENDPOINTS[1]
    assert client.describe_limits()["TableMaxReadCapacityUnits"] > 0

    client.update_table(TableName=name, DeletionProtectionEnabled=True)
    refused("ValidationException", lambda: client.delete_table(TableName=name))
    client.update_table(TableName=name, DeletionProtectionEnabled=False, BillingMode="PAY_PER_REQUEST")
    assert client.describe_table(TableName=name)["Table"]["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"

    client.put_item(
        TableName=name, Item={"id": {"S": "old"}, "n": {"N": "1"}}, Expected={"id": {"Exists": False}}
    )
    client.update_item(
        TableName=name, Key={"id": {"S": "old"}}, AttributeUpdates={"n": {"Action": "ADD", "Value": {"N": "4"}}}
    )
    found = client.query(
        TableName=name,
        KeyConditions={"id": {"ComparisonOperator": "EQ", "AttributeValueList": [{"S": "old"}]}},
        AttributesToGet=["n"],
    )["Items"]
    assert found == [{"n": {"N": "5"}}], found
    client.delete_table(TableName=name)
    client.get_waiter("table_not_exists").wait(TableName=name, WaiterConfig={"Delay": 1})


class Reader:
    """Reads all of a stream as the Kinesis client library does: shards after their parents, from any node."""

    def __init__(self, arn):
        self.arn, self.asked, self.iterators, self.read, self.changes = arn, 0, {}, set(), []

    def client(self):
        self.asked += 1
        return connect("client", self.asked, "dynamodbstreams")

    def shards(self):
        found, start = [], {}
        while True:
            page = self.client().describe_stream(StreamArn=self.arn, Limit=2, **start)["StreamDescription"]
            found += page["Shards"]
            if "LastEvaluatedShardId" not in page:
                return found
            start = {"ExclusiveStartShardId": page["LastEvaluatedShardId"]}

    def look(self):
        shards = self.shards()
        there = {shard["ShardId"] for shard in shards}
        for shard in shards:
            name, parent = shard["ShardId"], shard.get("ParentShardId")
            if name in self.read or (parent in there and parent not in self.read):
                continue
            if name not in self.iterators:
                self.iterators[name] = self.client().get_shard_iterator(
                    StreamArn=self.arn, ShardId=name, ShardIteratorType="TRIM_HORIZON"
                )["ShardIterator"]
            page = self.client().get_records(ShardIterator=self.iterators[name], Limit=3)
            self.changes += page["Records"]
            self.iterators[name] = page.get("NextShardIterator")
            if self.iterators[name] is None:
                self.read.add(name)
        return self.changes


def streams():
    """The changes of a table, in all views; iterators of all kinds; a stream that ends."""
    name = "events"
    client, reading = connect("client", 0), connect("client", 1, "dynamodbstreams")
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )
    client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
    table = client.describe_table(TableName=name)["Table"]
    arn = table["LatestStreamArn"]
    assert arn == f"{table['TableArn']}/stream/{table['LatestStreamLabel']}"
    listed = reading.list_streams(TableName=name)["Streams"]
    assert listed == [{"StreamArn": arn, "TableName": name, "StreamLabel": table["LatestStreamLabel"]}]

    key = lambda number: {"id": {"S": f"e{number}"}}
    for number in range(20):
        for turn in range(3):
            connect("client", turn).put_item(TableName=name, Item={**key(number), "turn": {"N": str(turn)}})
        # Nothing changes.
        client.put_item(TableName=name, Item={**key(number), "turn": {"N": "2"}})
    client.transact_write_items(
        TransactItems=[{"Delete": {"TableName": name, "Key": key(number)}} for number in range(5)]
    )
    reader = Reader(arn)
    eventually("all changes are there", lambda: len(reader.look()) >= 65)
    assert len(reader.changes) == 65
    for number in range(20):
        own = [change for change in reader.changes if change["dynamodb"]["Keys"] == key(number)]
        names = ["INSERT", "MODIFY", "MODIFY"] + (["REMOVE"] if number < 5 else [])
        assert [change["eventName"] for change in own] == names, own
        images = [None]
        for change in own:
            assert change["dynamodb"].get("OldImage") == images[-1], change
            images.append(change["dynamodb"].get("NewImage"))
        numbers = [int(change["dynamodb"]["SequenceNumber"]) for change in own]
        assert numbers == sorted(numbers) and len(set(numbers)) == len(numbers)
    assert len({change["eventID"] for change in reader.changes}) == 65

    # From a change on, behind it, and from now on.
    own = [change for change in reader.changes if change["dynamodb"]["Keys"] == key(7)]
    second = own[1]["dynamodb"]["SequenceNumber"]

    def read(kind, shard, **more):
        iterator = reading.get_shard_iterator(StreamArn=arn, ShardId=shard, ShardIteratorType=kind, **more)
        return reading.get_records(ShardIterator=iterator["ShardIterator"])["Records"]

    numbers = lambda records: [record["dynamodb"]["SequenceNumber"] for record in records]
    shards = [shard["ShardId"] for shard in reader.shards()]
    shard = next(shard for shard in shards if second in numbers(read("TRIM_HORIZON", shard)))
    assert numbers(read("AT_SEQUENCE_NUMBER", shard, SequenceNumber=second))[0] == second
    after = numbers(read("AFTER_SEQUENCE_NUMBER", shard, SequenceNumber=second))
    assert second not in after and own[2]["dynamodb"]["SequenceNumber"] in after
    latest = reading.get_shard_iterator(StreamArn=arn, ShardId=shard, ShardIteratorType="LATEST")["ShardIterator"]
    client.put_item(TableName=name, Item=key(7))
    assert [record["dynamodb"]["Keys"] for record in reading.get_records(ShardIterator=latest)["Records"]] == [key(7)]

    refused("ValidationException", lambda: reading.get_records(ShardIterator=latest[:-9]))
    refused("ValidationException", lambda: read("AT_SEQUENCE_NUMBER", shard))
    missing = f"{table['TableArn']}/stream/2020-01-01T00:00:00.000"
    refused("ResourceNotFoundException", lambda: reading.describe_stream(StreamArn=missing))
    refused("ResourceNotFoundException", lambda: read("LATEST", "shardId-00000000000000000001-0000000000000000"))
    on = {"StreamEnabled": True, "StreamViewType": "KEYS_ONLY"}
    refused("ValidationException", lambda: client.update_table(TableName=name, StreamSpecification=on))

    # Expired items say that nobody asked for it.
    client.update_time_to_live(TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "until"})
    client.put_item(TableName=name, Item={**key(99), "until": {"N": str(int(time.time()) - 5)}})
    gone = lambda: [change for change in reader.look() if change.get("userIdentity")]
    eventually("an item has expired", gone)
    assert gone()[0]["userIdentity"] == {"Type": "Service", "PrincipalId": "dynamodb.amazonaws.com"}
    assert gone()[0]["eventName"] == "REMOVE" and gone()[0]["dynamodb"]["Keys"] == key(99)

    client.update_table(TableName=name, StreamSpecification={"StreamEnabled": False})
    status = lambda: reading.describe_stream(StreamArn=arn)["StreamDescription"]["StreamStatus"]
    eventually("the stream has ended", lambda: status() == "DISABLED")
    client.put_item(TableName=name, Item=key(1000))
    eventually("all of it is read", lambda: reader.look() and set(reader.read) >= {s["ShardId"] for s in reader.shards()})
    assert all(change["dynamodb"]["Keys"] != key(1000) for change in reader.changes)
    client.update_table(TableName=name, StreamSpecification=on)
    described = lambda: client.describe_table(TableName=name)["Table"]
    assert described()["StreamSpecification"] == on and described()["LatestStreamArn"] != arn
    status = lambda: reading.describe_stream(StreamArn=described()["LatestStreamArn"])["StreamDescription"]
    eventually("another stream has begun", lambda: status()["StreamStatus"] == "ENABLED")
    client.put_item(TableName=name, Item=key(1001))
    keys = Reader(described()["LatestStreamArn"])
    eventually("it has the next change", keys.look)
    assert set(keys.changes[0]["dynamodb"]) & {"NewImage", "OldImage"} == set()
    client.delete_table(TableName=name)


def command_line():
    """The AWS CLI."""
    packages = os.environ.get("PYTHONPATH")
    env = dict(os.environ, AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret", AWS_DEFAULT_REGION="us-east-1")
    env["AWS_ENDPOINT_URL_DYNAMODB"] = ENDPOINTS[2 % len(ENDPOINTS)]
    assert packages is None or "AWS_PAGER" not in env

    def aws(*arguments):
        program = [sys.executable, "-m", "awscli", "dynamodb", *arguments, "--output", "json"]
        done = subprocess.run(program, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else {}

    assert {"orders", "accounts"} <= set(aws("list-tables")["TableNames"])
    item = aws("get-item", "--table-name", "orders", "--key", '{"customer": {"S": "c2"}, "number": {"N": "2"}}')
    assert item["Item"]["total"] == {"N": "0.5"}
    aws("wait", "table-exists", "--table-name", "orders")


for part in (orders, transactions, settings, streams, command_line):
    began = time.monotonic()
    part()
    print(f"{part.__name__}: {time.monotonic() - began:.1f} s")
