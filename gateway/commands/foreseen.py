"""What can keep a gateway from starting, told as one line each; anything else is a defect."""

from gateway.assets import AssetMissing
from gateway.cold.objects import ColdFault
from gateway.data_dir.state import NotInitialised
from gateway.keyring import KeyringFault
from gateway.listeners import PortTaken
from gateway.policy.opa_binary import OpaMissing
from gateway.policy.sources import BundleFault
from gateway.registry.faults import Fault
from gateway.settings import SettingsFault
from gateway.store.database import DatabaseLocked, DataDirUnusable
from gateway.store.migrations import SchemaTooNew
from gateway.store.postgresql import DatabaseAway
from gateway.trace.slots import SlotLost

FORESEEN = (
    SettingsFault,
    NotInitialised,
    DatabaseLocked,
    DataDirUnusable,
    DatabaseAway,
    SchemaTooNew,
    KeyringFault,
    Fault,
    PortTaken,
    OpaMissing,
    BundleFault,
    AssetMissing,
    ColdFault,
    SlotLost,
)
