//! A disk that is full: what was paid is not lost, and the program says what is wrong.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use regtest::admin::Readiness;
use regtest::merchant::Merchant;
use regtest::network::Network;
use regtest::wait::eventually;

use crate::operations::{DEADLINE, tollhouse};
use crate::shop::{HEIGHT, Shop};

/// Room for all that a small merchant keeps, and not much more.
const DISK: &str = "size=200m";

/// A small disk under a merchant's data; unmounted at the end.
struct Disk {
    data: PathBuf,
}

impl Disk {
    /// Moves the data of a merchant that is not running onto it.
    fn under(merchant: &Merchant) -> Self {
        Self::with(merchant, DISK)
    }

    /// The same with other mount options.
    fn with(merchant: &Merchant, options: &str) -> Self {
        let data = merchant.data_dir().to_owned();
        let aside = data.with_extension("aside");
        fs::rename(&data, &aside).unwrap();
        fs::create_dir(&data).unwrap();
        let disk = Self { data };
        run(
            "mount",
            &["-t", "tmpfs", "-o", options, "none", disk.path()],
        );
        let from = format!("{}/.", aside.display());
        run("cp", &["-a", &from, disk.path()]);
        disk
    }

    fn path(&self) -> &str {
        self.data.to_str().unwrap()
    }

    /// The file that takes all the room there is.
    fn filler(&self) -> PathBuf {
        self.data.join("filler")
    }

    fn fill(&self) {
        let mut filler = fs::File::create(self.filler()).unwrap();
        let full = std::io::copy(&mut std::io::repeat(0), &mut filler).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn fill_partly(&self, bytes: usize) {
        fs::write(self.filler(), vec![0; bytes]).unwrap();
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also while something on it is open.
        let _ = Command::new("umount").args(["-l", self.path()]).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {said} (this test mounts a disk: it has to run as root)"
    );
}

#[tokio::test]
async fn on_a_full_disk_a_payment_under_way_waits_for_room_and_is_not_lost() {
    let mut shop = Shop::open().await;
    shop.buy(HEIGHT).await;
    shop.network.merchant.terminate().await.unwrap();
    let disk = Disk::under(&shop.network.merchant);
    shop.come_back().await;
    let url = format!("{}{HEIGHT}", shop.network.gate_url());
    let challenge = shop.network.client().challenge(&url).await.unwrap();
    disk.fill();

    let log = Log::of(&shop.network);
    let network = &mut shop.network;
    let payer = network.payer.clone();
    let paying = payer.pay(&challenge.bolt11);
    let mending = async {
        let ended = network.merchant.wait_ended().await.unwrap();
        assert_eq!(ended.code(), Some(1));
        log.says("cannot be written");
        log.says("Make room on its disk");

        // Started again too early it opens nothing.
        network.merchant.restart().await.unwrap();
        let ended = network.merchant.wait_ended().await.unwrap();
        assert_eq!(ended.code(), Some(1));
        log.says("make room, then start again");

        disk.make_room();
        network.merchant.restart().await.unwrap();
        network.merchant.wait_up().await.unwrap();
        assert_eq!(network.ensure_channel().await.unwrap(), 0);
    };
    let (paid, ()) = tokio::join!(paying, mending);
    let credential = challenge.credential(&paid.unwrap());
    assert_eq!(shop.get(HEIGHT, Some(&credential)).await.status, 200);
    shop.redeemed_sales(2).await;
    let status = shop.network.merchant.admin().status().await.unwrap();
    assert_eq!(status["sales"]["amount_msat"], 20_000);
    let set_aside = fs::read_dir(shop.network.merchant.data_dir().join("ledger")).unwrap();
    let set_aside = set_aside.filter(|it| {
        let name = it.as_ref().unwrap().file_name();
        name.to_string_lossy().contains("corrupt")
    });
    assert_eq!(set_aside.count(), 0, "the books' store was not touched");
}

#[tokio::test]
async fn on_a_nearly_full_disk_nothing_is_sold_and_what_was_bought_opens() {
    let mut shop = Shop::open().await;
    shop.network.merchant.terminate().await.unwrap();
    let disk = Disk::under(&shop.network.merchant);
    shop.come_back().await;
    let credential = shop.buy(HEIGHT).await;
    disk.fill_partly(120_000_000);
    let admin = shop.network.merchant.admin();
    eventually("that it is not ready", DEADLINE, || async {
        match admin.ready().await.map_err(|error| format!("{error:#}"))? {
            Readiness { ready: true, .. } => Err("it is ready".to_owned()),
            Readiness { reason, .. } => Ok(reason),
        }
    })
    .await
    .map(|reason| assert!(reason.contains("nearly full"), "{reason}"))
    .unwrap();
    let node = admin.status().await.unwrap()["node"].clone();
    assert!(
        node["unready"].as_str().unwrap().contains("nearly full"),
        "{node}"
    );
    assert_eq!(shop.get(HEIGHT, None).await.status, 503);
    assert_eq!(shop.get(HEIGHT, Some(&credential)).await.status, 200);
    disk.make_room();
    shop.network.merchant.wait_ready().await.unwrap();
    shop.buy(HEIGHT).await;
}

/// What the merchant says.
struct Log(PathBuf);

impl Log {
    fn of(network: &Network) -> Self {
        Self(network.merchant.log().to_owned())
    }

    fn says(&self, what: &str) {
        let log = fs::read_to_string(&self.0).unwrap();
        assert!(log.contains(what), "{what} is not in the log:\n{log}");
    }
}

#[tokio::test]
async fn without_free_inodes_nothing_is_sold_and_doctor_says_so() {
    let mut shop = Shop::open().await;
    shop.network.merchant.terminate().await.unwrap();
    let disk = Disk::with(&shop.network.merchant, "size=400m,nr_inodes=3000");
    shop.come_back().await;
    let credential = shop.buy(HEIGHT).await;
    let fill = |left: u64| {
        let stat = rustix::fs::statvfs(&disk.data).unwrap();
        for number in 0..stat.f_favail - left {
            fs::write(disk.data.join(format!("filler-{number}-{left}")), "").unwrap();
        }
    };
    fill(400);
    let admin = shop.network.merchant.admin();
    eventually("that it is not ready", DEADLINE, || async {
        match admin.ready().await.map_err(|error| format!("{error:#}"))? {
            Readiness { ready: true, .. } => Err("it is ready".to_owned()),
            Readiness { reason, .. } => Ok(reason),
        }
    })
    .await
    .map(|reason| assert!(reason.contains("nearly full"), "{reason}"))
    .unwrap();
    assert_eq!(shop.get(HEIGHT, Some(&credential)).await.status, 200);
    let found = tollhouse(&shop.network, &["doctor"]).await;
    let found = String::from_utf8(found.stdout).unwrap();
    assert!(found.contains("inodes"), "{found}");
    shop.network.merchant.terminate().await.unwrap();
    fill(50);
    shop.network.merchant.restart().await.unwrap();
    let ended = shop.network.merchant.wait_ended().await.unwrap();
    assert_eq!(ended.code(), Some(1));
    Log::of(&shop.network).says("(inodes)");
}
