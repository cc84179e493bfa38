"""Personal information: recognisers by pattern, checksum, list and context, English and Korean; typed replacement."""
