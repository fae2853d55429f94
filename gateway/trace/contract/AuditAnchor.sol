// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// Keeps, for each writer and log, the latest tree head that the writer vouches for.
///
/// A head never shrinks and is never replaced by another of its size. There is no owner and no list
/// of writers: whoever sends is the writer, and nobody writes under another's address.
contract AuditAnchor {
    struct Head {
        uint64 size;
        uint64 seq;
        uint64 blockNo;
        bytes32 root;
    }

    mapping(address => mapping(bytes32 => Head)) private _head;

    error NotNewer(uint64 have, uint64 got);
    error Fork(uint64 size, bytes32 have, bytes32 got);

    /// `prevBlock` leads back to the event before, so that a node which answers for thirty blocks at
    /// a time still shows the whole history.
    event Anchored(
        address indexed writer,
        bytes32 indexed logId,
        uint64 indexed size,
        bytes32 root,
        uint64 seq,
        uint64 prevBlock
    );

    /// Anchors a head; the same head again changes nothing and is no error.
    function anchor(bytes32 logId, uint64 size, bytes32 root) external returns (uint64 seq) {
        Head storage h = _head[msg.sender][logId];
        uint64 have = h.size;
        if (size == have && have != 0) {
            if (h.root != root) revert Fork(size, h.root, root);
            return h.seq;
        }
        if (size < have || size == 0) revert NotNewer(have, size);
        uint64 prev = h.blockNo;
        seq = h.seq + 1;
        h.size = size;
        h.seq = seq;
        h.blockNo = uint64(block.number);
        h.root = root;
        emit Anchored(msg.sender, logId, size, root, seq, prev);
    }

    function head(address writer, bytes32 logId)
        external
        view
        returns (uint64 size, uint64 seq, uint64 blockNo, bytes32 root)
    {
        Head storage h = _head[writer][logId];
        return (h.size, h.seq, h.blockNo, h.root);
    }
}
