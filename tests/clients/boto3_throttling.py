"""Tables that may be asked only so much, through boto3. Arguments: the endpoints of the nodes, which keep to provisioned throughput."""

import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from expect import eventually, refused

# What a node was asked too much is waited for there; others have a share of their own.
dynamodb = boto3.client(
    "dynamodb",
    endpoint_url=f"http://{sys.argv[1]}",
    region_name="us-east-1",
    aws_access_key_id="key",
    aws_secret_access_key="secret",
    config=Config(retries={"max_attempts": 1}),
)
# Minutes' worth of what the tables below may be asked.
LARGE = {"S": "x" * 300_000}


def done(call):
    try:
        call()
    except ClientError:
        return False
    return True


def create(name, **more):
    dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}]
        + ([{"AttributeName": "kind", "AttributeType": "S"}] if "GlobalSecondaryIndexes" in more else []),
        **more,
    )
    dynamodb.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
    return dynamodb.describe_table(TableName=name)["Table"]


def item(name, **more):
    return {"id": {"S": name}, **more}


def reason(response, field="ThrottlingReasons"):
    [one] = response[field]
    return one["reason"], one["resource"].split(":table/")[1]


def by_request():
    most = {"MaxReadRequestUnits": 1, "MaxWriteRequestUnits": 1}
    described = create("busy", BillingMode="PAY_PER_REQUEST", OnDemandThroughput=most)
    assert described["OnDemandThroughput"] == most, described
    assert "OnDemandThroughput" not in create("free", BillingMode="PAY_PER_REQUEST")
    dynamodb.put_item(TableName="free", Item=item("a"))

    # What it costs is known afterwards, and waited for: five minutes here.
    dynamodb.put_item(TableName="busy", Item=item("a", text=LARGE))
    put = lambda: dynamodb.put_item(TableName="busy", Item=item("b"))
    response = refused("ThrottlingException", put)
    assert reason(response, "throttlingReasons") == ("TableWriteMaxOnDemandThroughputExceeded", "busy"), response
    delete = lambda: dynamodb.delete_item(TableName="busy", Key=item("a"))
    refused("ThrottlingException", delete)
    dynamodb.put_item(TableName="free", Item=item("b"))

    # Of a batch, what may be done is done.
    write = lambda table, name: {table: [{"PutRequest": {"Item": item(name)}}]}
    both = {**write("busy", "c"), **write("free", "c")}
    left = dynamodb.batch_write_item(RequestItems=both)["UnprocessedItems"]
    assert left == write("busy", "c"), left
    assert dynamodb.get_item(TableName="free", Key=item("c"))["Item"] == item("c")
    refused("ThrottlingException", lambda: dynamodb.batch_write_item(RequestItems=write("busy", "c")))

    # Of a transaction, nothing is.
    put = lambda table: {"Put": {"TableName": table, "Item": item("d")}}
    transact = lambda: dynamodb.transact_write_items(TransactItems=[put("free"), put("busy")])
    reasons = refused("TransactionCanceledException", transact)["CancellationReasons"]
    assert [one["Code"] for one in reasons] == ["None", "ThrottlingError"], reasons
    assert "Item" not in dynamodb.get_item(TableName="free", Key=item("d"))

    # Reads are something else, until they are asked too much, too.
    found = dynamodb.get_item(TableName="busy", Key=item("a"), ConsistentRead=True, ReturnConsumedCapacity="TOTAL")
    assert found["ConsumedCapacity"]["CapacityUnits"] == 74, found["ConsumedCapacity"]
    response = refused("ThrottlingException", lambda: dynamodb.get_item(TableName="busy", Key=item("a")))
    assert reason(response, "throttlingReasons") == ("TableReadMaxOnDemandThroughputExceeded", "busy"), response
    refused("ThrottlingException", lambda: dynamodb.scan(TableName="busy"))
    keys = {"busy": {"Keys": [item("a")]}, "free": {"Keys": [item("a"), item("b")]}}
    found = dynamodb.batch_get_item(RequestItems=keys)
    assert found["UnprocessedKeys"] == {"busy": keys["busy"]} and len(found["Responses"]["free"]) == 2, found
    get = lambda table: {"Get": {"TableName": table, "Key": item("a")}}
    transact = lambda: dynamodb.transact_get_items(TransactItems=[get("busy"), get("free")])
    reasons = refused("TransactionCanceledException", transact)["CancellationReasons"]
    assert [one["Code"] for one in reasons] == ["ThrottlingError", "None"], reasons
    statement = lambda table: {"Statement": f"SELECT * FROM \"{table}\" WHERE id = 'a'"}
    [busy, free] = dynamodb.batch_execute_statement(Statements=[statement("busy"), statement("free")])["Responses"]
    assert busy["Error"]["Code"] == "ThrottlingError" and free["Item"] == item("a"), (busy, free)

    # Without a most it may be asked anything.
    none = {"MaxReadRequestUnits": -1, "MaxWriteRequestUnits": -1}
    dynamodb.update_table(TableName="busy", OnDemandThroughput=none)
    eventually("the table may be asked", lambda: done(lambda: dynamodb.put_item(TableName="busy", Item=item("b"))))
    eventually("the table may be read", lambda: done(lambda: dynamodb.scan(TableName="busy")))
    assert "OnDemandThroughput" not in dynamodb.describe_table(TableName="busy")["Table"]
    bad = {"MaxReadRequestUnits": 0}
    refused("ValidationException", lambda: dynamodb.update_table(TableName="busy", OnDemandThroughput=bad))
    refused("ValidationException", lambda: dynamodb.update_table(TableName="busy", OnDemandThroughput={}))


def by_index():
    """Whoever writes to a table writes to its indexes."""
    index = {
        "IndexName": "by-kind",
        "KeySchema": [{"AttributeName": "kind", "KeyType": "HASH"}],
        "Projection": {"ProjectionType": "ALL"},
        "OnDemandThroughput": {"MaxWriteRequestUnits": 1},
    }
    described = create("indexed", BillingMode="PAY_PER_REQUEST", GlobalSecondaryIndexes=[index])
    [shown] = described["GlobalSecondaryIndexes"]
    assert shown["OnDemandThroughput"] == {"MaxReadRequestUnits": -1, "MaxWriteRequestUnits": 1}, shown
    # It is not in the index.
    dynamodb.put_item(TableName="indexed", Item=item("a", text=LARGE))
    dynamodb.put_item(TableName="indexed", Item=item("a", text=LARGE, kind={"S": "k"}))
    put = lambda: dynamodb.put_item(TableName="indexed", Item=item("b"))
    response = refused("ThrottlingException", put)
    expected = ("IndexWriteMaxOnDemandThroughputExceeded", "indexed/index/by-kind")
    assert reason(response, "throttlingReasons") == expected, response
    update = {"IndexName": "by-kind", "OnDemandThroughput": {"MaxWriteRequestUnits": -1}}
    dynamodb.update_table(TableName="indexed", GlobalSecondaryIndexUpdates=[{"Update": update}])
    eventually("the table may be written to", lambda: done(put))


def provisioned():
    units = lambda reads, writes: {"ReadCapacityUnits": reads, "WriteCapacityUnits": writes}
    create("provisioned", ProvisionedThroughput=units(1, 1))
    dynamodb.put_item(TableName="provisioned", Item=item("a", text=LARGE))
    put = lambda: dynamodb.put_item(TableName="provisioned", Item=item("b"))
    response = refused("ProvisionedThroughputExceededException", put)
    assert reason(response) == ("TableWriteProvisionedThroughputExceeded", "provisioned"), response
    most = {"MaxReadRequestUnits": 5}
    refused("ValidationException", lambda: dynamodb.update_table(TableName="provisioned", OnDemandThroughput=most))
    dynamodb.update_table(TableName="provisioned", ProvisionedThroughput=units(1, 5000))
    eventually("the table may be asked more", lambda: done(put))


by_request()
by_index()
provisioned()
